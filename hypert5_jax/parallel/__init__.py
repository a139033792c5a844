"""The mesh of devices and the rule tables that lay arrays out over it."""
