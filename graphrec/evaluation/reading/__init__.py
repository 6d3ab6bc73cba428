"""Parts of `graphrec.evaluation.read`: sources in chunks, column guesses, identifiers, local time, storage."""
