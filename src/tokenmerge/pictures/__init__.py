"""What several commands draw with: photographs, panels and the groups of patches."""
