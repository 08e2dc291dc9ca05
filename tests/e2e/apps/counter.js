// Counts aloud, so that a line that is lost, torn or doubled shows.
let n = 0;
setInterval(() => console.log('line', ++n), 5);
