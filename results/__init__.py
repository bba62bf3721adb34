"""Measurements behind the claims of the paper, and the page that shows them."""
