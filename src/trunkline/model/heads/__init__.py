"""From hidden states to what a task answers with: parts of heads that several tasks share."""
