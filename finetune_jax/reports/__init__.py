"""What people read: tables, pages and figures of results."""
