"""Do a sparse autoencoder and the linear emotion vectors tell the same story?"""
