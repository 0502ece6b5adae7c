"""`sensorlog`: publish and read sensor data, see what a pipeline does."""
