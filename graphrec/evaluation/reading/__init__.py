"""Parts of `graphrec.evaluation.read`: sources in chunks, guesses, identifiers, local time, storage."""
