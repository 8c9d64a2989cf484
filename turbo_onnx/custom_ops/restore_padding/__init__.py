"""Packed rows back in a padded batch."""
