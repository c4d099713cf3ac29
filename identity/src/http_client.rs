//! The one place that builds outgoing HTTP clients: proxy, CA, deadlines, no redirects.
