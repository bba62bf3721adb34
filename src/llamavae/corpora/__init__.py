"""Named corpora and the user's own files: sentences, definitions, pairs."""
