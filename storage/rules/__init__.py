"""Pure tables of decisions: which moves a job may make, and what each class of fault leads to."""
