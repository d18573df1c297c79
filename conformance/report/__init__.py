"""What people look at, made from results files: page, Markdown, badge, comparison."""
