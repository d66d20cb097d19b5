"""Many machines, through Flower (extra `flower`). Nothing outside this folder imports Flower."""
