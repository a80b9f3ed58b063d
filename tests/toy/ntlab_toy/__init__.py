"""A third party's plugins, as far as the tests need one. The fixture `toy` installs it."""
