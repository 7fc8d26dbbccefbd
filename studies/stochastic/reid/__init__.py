"""Person re-identification with wrong labels (SE-SNN, section 4.3 and appendix A), part by part."""
