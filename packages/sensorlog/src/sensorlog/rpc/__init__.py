"""The stubs generated from api/proto by `make generate`."""
