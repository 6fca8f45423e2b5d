"""What sits on an encoder. A head owns its encoder; ``forward(batch)`` gives the ``Loss`` the loop works with."""
