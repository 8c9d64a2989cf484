"""VarlenAttention: specification, function body and CPU kernel."""
