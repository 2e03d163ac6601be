"""The sharder's units on Apache Beam, for corpora that outgrow one machine. See sharder.py."""
