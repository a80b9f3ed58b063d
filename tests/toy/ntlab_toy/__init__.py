"""A third party's plugins, as far as the tests need one. Put on the path by `builders.toy_plugins`."""
