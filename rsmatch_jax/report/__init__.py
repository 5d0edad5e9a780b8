"""Tables and pages out of workdirs."""
