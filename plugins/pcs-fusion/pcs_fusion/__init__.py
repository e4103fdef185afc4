"""Features of references, brought into the text and into control branches."""
