//! The lab: a pod-like network namespace with a real Envoy, an outside with real proxies, and their clean-up.
