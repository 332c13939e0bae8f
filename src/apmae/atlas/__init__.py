"""The atlas: reduced embeddings, clusters, names, and the placing of new patterns. Torch-free."""
