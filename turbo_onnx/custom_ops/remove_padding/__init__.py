"""Where the tokens of a padded batch are."""
