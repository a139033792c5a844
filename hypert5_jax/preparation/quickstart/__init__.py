"""The quickstart's generated world: documents, tasks and vocabulary; nothing is downloaded."""
