"""From what was declared to the normal form: rewrite rules, traits, and the forms that are legal."""
