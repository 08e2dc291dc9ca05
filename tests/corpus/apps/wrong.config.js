module.exports = { apps: [{ name: 'w', script: './app.js', watch: 12 }] };
