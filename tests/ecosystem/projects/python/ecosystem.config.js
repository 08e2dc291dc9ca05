// A Flask service, a Celery worker in a virtualenv, and a script with its own first line.
module.exports = {
  apps: [
    { name: 'flask', script: 'app.py', args: ['--port', 5000], env: { FLASK_ENV: 'production' } },
    { name: 'celery', script: './venv/bin/celery', args: '-A tasks worker --loglevel=INFO', interpreter: 'none' },
    { name: 'worker', script: 'worker.py', interpreter: './venv/bin/python', interpreter_args: '-u' },
    { name: 'job', script: './run-job' },
  ],
};
