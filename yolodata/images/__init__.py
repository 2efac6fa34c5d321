"""Picture files to pixels as upstream has them: headers, formats, decoding, the resize rule."""
