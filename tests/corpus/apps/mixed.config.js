module.exports = { apps: [{ name: 'gone', script: './nowhere.js' }, { name: 'there', script: './app.js' }] };
