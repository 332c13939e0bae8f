"""The atlas: reduced embeddings, clusters, their names, and placing new patterns among them. Torch-free."""
