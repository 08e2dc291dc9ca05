// Ends as soon as it was started.
console.error('no database');
process.exit(3);
