"""The connection, the tables and their migrations; SQLAlchemy begins here."""
