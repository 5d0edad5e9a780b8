"""Tables and pages from workdirs."""
