"""Formats of the real world: `wire` declares structures of bytes, `minidump` is what a crash leaves, and
`references` are pages that programs touched."""
