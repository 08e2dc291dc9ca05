// Writes a numbered line every 20 ms, after two of other importance.
console.error('<4>careful');
console.error('oops');
let count = 0;
setInterval(() => console.log(`count ${count++}`), 20);
