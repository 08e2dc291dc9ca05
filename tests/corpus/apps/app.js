console.log('up', process.argv.slice(2).join(' '));
setInterval(() => {}, 1 << 30);
