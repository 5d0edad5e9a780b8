"""What a state is worth: predictions on whole sets against ground truth."""
