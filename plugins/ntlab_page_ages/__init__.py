"""Page ages of any number of bits: how well they tell which page has not been used for longest (M5)."""

from ntlab_page_ages.plugin import PageAges

__all__ = ["PageAges"]
