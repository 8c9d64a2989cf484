"""SegmentPooling: specification and CPU kernel."""
