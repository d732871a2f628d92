"""Readers of downloads: 10x Genomics folders, AnnData, SpatialData and tables of counts."""
