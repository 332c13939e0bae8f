"""AP-MAE: the masked autoencoder over the patches of a pattern's lower triangle."""
