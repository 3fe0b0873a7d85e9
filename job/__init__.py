"""The annotator: one machine, or one index of a job, over local folders or object stores."""
