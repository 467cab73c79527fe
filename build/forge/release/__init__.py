"""The folder that is uploaded: manifest, documents, signatures."""
