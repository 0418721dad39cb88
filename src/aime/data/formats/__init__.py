"""Episodes from and to the formats of others: one module for each format, `registry` for their names, `importing` and
`exporting` to use them.

    import_data(ImportConfig(Path("demos.hdf5"), out=Path("data/demos")))
    export_data(ExportConfig(Path("data/demos"), format="npz", out=Path("demos-npz")))
"""
