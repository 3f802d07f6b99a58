"""Studies: several runs that answer one question, each an ordinary run directory below the study's own."""
