"""Reports made from results files: page, Markdown, JUnit, badge, comparison.

``conformance.cli.report`` lists the formats of ``dense-conformance report``.
"""
