"""The report: tables, figures and one self-contained page. Torch-free; reads a study from disk."""
