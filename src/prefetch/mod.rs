//! Hides a store's latency: reads ahead of a sequential reader, and fetches exactly what a random one asks.
