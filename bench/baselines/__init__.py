"""What Piropiro is compared with: other ways to the same answer, each as good as its idea allows."""
