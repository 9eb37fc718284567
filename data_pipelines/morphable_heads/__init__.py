"""Rendered heads of linear face models as a dataset: builder, loader, command line (see README)."""
