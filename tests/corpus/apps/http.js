require('http').createServer((request, response) => response.end(process.env.NODE_ENV || 'none')).listen(process.env.PORT || 0);
